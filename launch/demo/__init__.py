"""The web page: Compose and Conquer and FG-DM in a browser, for the person at this machine."""
