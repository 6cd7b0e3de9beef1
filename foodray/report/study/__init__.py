"""The study report: what one scoring run says, with truth where there is any, as a page, report.json and a CSV a table."""
