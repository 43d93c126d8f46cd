"""What `contaminate` is made of: whose replies there are, and which are right elsewhere too."""
