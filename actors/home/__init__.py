"""A TANDEM_HOME made fit for a cluster: folders, locks, and processes identified beyond their pid."""
