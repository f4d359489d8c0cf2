"""`python` whose imports are done: hands its arguments to `tests/support/warm.py` and stands for the fork.

python -ISE tests/support/warm_python.py SOCKET ARGUMENT...
"""

import json
import os
import socket
import sys


def main(path: str, *arguments: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        data = json.dumps(request).encode()
        socket.send_fds(connection, [b"%10d" % len(data)], [0, 1, 2])
        connection.sendall(data)
        answers = connection.makefile()
        answers.readline()  # the fork's number
        return int(answers.readline() or 1)


sys.exit(main(*sys.argv[1:]))
