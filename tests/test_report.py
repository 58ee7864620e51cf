"""The report: what it reads, what it says, and that nothing is dropped, mixed or made up."""
