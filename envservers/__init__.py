"""The light side: environment servers step environments and send observations. No torch here."""
