"""`python -m service.sandboxes.launcher`"""

import sys

from service.sandboxes.launcher.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
