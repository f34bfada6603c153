"""The scenarios, a file for each kind of fault; `agents.chaos.catalogue` lists them."""
