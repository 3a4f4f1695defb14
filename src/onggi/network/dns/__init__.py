"""The name server that containers see, and the servers that it asks in turn."""
