"""Reads records, runs nothing.

- what a report starts from: results, shipped
- its tables and figures: tables, summary_tables, figures, plain_control, shipped_beside, wrong_answers
- its judgement: criteria, hypotheses, audit_verdict
- a report of a grid, of one record: content, log_entry, results_page, grid_report, cell_report
- what forwards cost: cost_model, verify_costs
- predictions for the 7B: predictions, prediction_claims
"""
