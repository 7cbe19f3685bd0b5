"""Model editors in pure torch: captured gradients in, a delta out."""
