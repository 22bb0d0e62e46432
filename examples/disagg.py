"""The same as non_disagg.py with prefill and decode in processes of their own, KV blocks moving between them.

python examples/disagg.py --model nano/demo --prompt "1+1=?" --max_tokens 128
"""

from __future__ import annotations

import sys

from non_disagg import main, parser

if __name__ == "__main__":
    sys.exit(main(parser(("prefill", "decode")).parse_args(), disaggregated=True))
