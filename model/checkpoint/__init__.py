"""Published weights, as people have them, into the networks: found, judged, and every parameter filled once."""
