"""Test-then-learn over a stream: our model beside its rivals (`foldstream evaluate`)."""
