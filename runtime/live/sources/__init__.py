"""Where live pictures come from: cameras, network streams, standard input, GStreamer, and files played as streams."""
