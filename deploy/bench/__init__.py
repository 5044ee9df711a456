"""What the gateway costs, measured side by side with other relays on this machine: `make bench`."""
