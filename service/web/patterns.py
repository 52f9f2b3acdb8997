"""The patterns of strings that requests carry. Each is told in words where it is not met (`complaints`)."""

USD = r"^[0-9]{1,7}(\.[0-9]{1,9})?$"
USD_IN_WORDS = 'expected USD as a decimal string, such as "0.50"'
GROUP_BY = r"^(day|model|key|session)(,(day|model|key|session)){0,3}$"
SHA256 = r"^[0-9a-f]{64}$"
CONTEXT_ID = r"^ctx_[0-9a-f]{32}$"
SESSION_ID = r"^ses_[0-9a-f]{32}$"
KEY_ID = r"^key_[0-9a-f]{32}$"
