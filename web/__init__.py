"""What knows HTTP and is no view: who calls, what was sent, how it is answered."""
