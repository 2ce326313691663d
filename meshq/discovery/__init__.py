"""How nodes find each other: mDNS, seeds, remembered and told peers."""
