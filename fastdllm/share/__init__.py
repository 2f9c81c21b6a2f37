"""What leaves the machine: gallery, publishing, redaction, inventory, notebook pages."""
