"""`ddcal report scoreboard`: sets of images under hard and soft labels beside each other, by recipes chosen on val."""
