"""One `skerry server` on loopback, configured as services are: by flags, variables and a file."""

import json

from harness import command
from harness.site import Site


class Server(Site):
    """A node of its own process; its data folder is the node's."""

    def __init__(self, binary, data):
        super().__init__(binary, data, nodes=1)
        self.variables = command.variables()
        self.verb = ["server"]
        self.place = ["--data", str(data)]
        self.flags = []

    def start(self, *flags, given=None):
        """Starts the node with these flags and variables, and waits until it is ready."""
        self.flags, self.variables = [str(flag) for flag in flags], command.variables(given)
        return super().start()

    def join(self, token_file, *flags, given=None):
        """Starts the node with a token; it need not be ready when this returns."""
        self.verb = ["join", "--token-file", str(token_file)]
        self.flags, self.variables = [str(flag) for flag in flags], command.variables(given)
        return self.spawn()

    def command(self):
        return [self.binary, *self.verb, *self.place, *self.flags]

    def url(self, door):
        """The URL of the door `s3` or `http`."""
        return self.status()["nodes"][0]["endpoints"][door]

    def port(self, door):
        return int(self.url(door).rpartition(":")[2])

    def node(self):
        """The node's marker: its number, its site and where it listens."""
        return json.loads((self.data / "node.json").read_text())
