"""What happens when: the loops that carry one mail from the mailbox to its reply; speaks only to ports and core."""
