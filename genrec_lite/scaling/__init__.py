"""What more compute gives, and what less of it costs."""
