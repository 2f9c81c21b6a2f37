"""What an audit comes to: the last cell of notebook 07."""

from __future__ import annotations

from fastdllm.display.claim import Decision, claim, verdict
from fastdllm.report.audit import rules
from fastdllm.report.audit.evidence import Evidence, Finding
from fastdllm.stats import number_of


@claim(holds="**{findings}: something can't be**, on {rows} of {of} configurations and statements "
             "({named}). Without their samples these rows stand for nothing.",
       fails="**No finding says that something can't be**, over {of} configurations and statements.",
       unknown="**There is nothing to audit.**")
def something_cannot_be(evidence: Evidence, findings: list[Finding]) -> Decision:
    """findings: `rules.audit(evidence)`."""
    worst = [finding for finding in findings if finding.level == "impossible"]
    of = len(evidence.rows) + len(evidence.statements)
    return (len(worst) > 0 if of else None), {
        "findings": number_of(len(worst), "finding"), "rows": len(rules.failing(findings)), "of": of,
        "named": ", ".join(f"`{rule}`" for rule in dict.fromkeys(finding.rule for finding in worst))}


@claim(holds="{n} more can't carry what is said about them, or have a second explanation.",
       fails="Nothing else is doubtful.",
       unknown="Nothing was held against the rules.")
def something_is_doubtful(evidence: Evidence, findings: list[Finding]) -> Decision:
    """As above."""
    doubtful = sum(finding.level == "doubtful" for finding in findings)
    return (doubtful > 0 if len(evidence.rows) + len(evidence.statements) else None), {"n": doubtful}


def audit(evidence: Evidence, findings: list[Finding]) -> str:
    """The verdict, each impossible finding behind the fold."""
    return verdict([something_cannot_be(evidence, findings), something_is_doubtful(evidence, findings)],
                   ["\n".join(f"- *{finding.rule}*: {finding.statement}; {finding.sure}." for finding in findings
                              if finding.level == "impossible"),
                    "What would change this: the samples behind the rows. With them the scores could be made again."])
