"""Privacy of learning, opt-in: noise on what a member hands in, and sums that hide their parts.

`private_member` is differential privacy on the member's own side: its update is clipped and noised
(`noise`) before it leaves the user's process, and what that spends is accounted for (`accounting`). Secure
aggregation is a protocol core that no round uses yet: see `secure_sum`. docs/learning.md says what each
protects, and what it does not.
"""
