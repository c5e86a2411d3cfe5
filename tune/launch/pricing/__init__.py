"""What training costs on this machine: measured on a few steps, and kept."""
