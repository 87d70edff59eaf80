"""Replication: what was given to the network is brought to R holders, and kept there as peers come and go.

`publisher` brings out what this agent wrote, `offers` what others wrote to who lacks it, `repairer` (by
`looks`) and `catch_up` keep holders of one basis alike. `decision` says what to send and what may go, without
waiting.
"""
