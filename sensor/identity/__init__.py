"""The identity of the machine: short-lived tokens from AWS, Google and Azure. The only importers of the cloud SDKs."""
