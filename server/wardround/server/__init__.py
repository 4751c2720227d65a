"""The coordinator: enrolment, studies, rounds, the audit log and its reports."""
