"""Many runs: what one will cost, what they came to. Reads and writes files, never tensors."""
