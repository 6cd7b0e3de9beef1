"""The supply chain: what the locks hold, known vulnerabilities (`make audit`), a bill of materials (`make sbom`), licences (`make licences`)."""
