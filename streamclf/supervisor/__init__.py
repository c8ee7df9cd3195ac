"""What starts, watches, changes and stops the processes of one service; it touches no picture itself."""
