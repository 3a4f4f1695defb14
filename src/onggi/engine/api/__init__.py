"""What a face may ask of the engine, and what it answers: frozen values, no behaviour."""
