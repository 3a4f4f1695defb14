"""Every verb by name: the room it lives in and its line in the help. Imports none of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.verb import Verb

#: group → verb → (room under `verbs/`, key in the room's VERBS, one line).
GROUPS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Run": {
        "run": ("run", "run", "make a container from an image and start it"),
        "create": ("run", "create", "make a container, without starting it"),
        "start": ("start", "start", "start containers that are not running"),
        "exec": ("exec", "exec", "run one more program in a running container"),
        "debug": ("debug", "debug", "a shell with tools beside a container that has none"),
        "cp": ("cp", "cp", "copy files into a container or out of it"),
        "attach": ("start", "attach", "connect to a running container's input and output"),
        "stop": ("lifecycle", "stop", "ask containers to end, then kill them"),
        "restart": ("lifecycle", "restart", "stop containers and start them again"),
        "pause": ("lifecycle", "pause", "let every process of containers stand still"),
        "unpause": ("lifecycle", "unpause", "let paused containers go on"),
        "rename": ("lifecycle", "rename", "give a container another name"),
        "update": ("update", "update", "change limits, restart policy and ports"),
        "kill": ("lifecycle", "kill", "send a signal (KILL) to containers"),
        "wait": ("lifecycle", "wait", "wait until containers end, print their exit codes"),
        "rm": ("lifecycle", "rm", "remove containers"),
        "container prune": ("prune", "containers", "remove containers that do not run"),
    },
    "Look": {
        "ps": ("ps", "ps", "list containers"),
        "logs": ("logs", "logs", "show what a container has written"),
        "inspect": ("inspect", "inspect", "everything known about an object, as JSON"),
        "diff": ("values", "changes", "what a container has changed"),
        "port": ("port", "port", "where a container's published ports are on the host"),
        "top": ("top", "top", "processes of a container, with their host ids"),
        "stats": ("stats", "stats", "live use of cpu, memory, disk and processes"),
        "events": ("events", "events", "what happens, as it happens"),
        "view": ("view", "view", "a container from both sides: host and inside"),
        "explain": ("explain", "explain", "every step that a run would take, and what it protects"),
    },
    "Images": {
        "images": ("images", "ls", "list images"),
        "pull": ("registry", "pull", "bring images from a registry, ready to run"),
        "push": ("registry", "push", "send images to a registry"),
        "login": ("registry", "login", "keep who you are to a registry"),
        "logout": ("registry", "logout", "forget who you are to a registry"),
        "history": ("values", "history", "how an image was made"),
        "commit": ("values", "commit", "make an image of a container's changes"),
        "tag": ("images", "tag", "give an image one more name"),
        "rmi": ("images", "rm", "remove images"),
        "load": ("archives", "load", "read images from an archive"),
        "save": ("archives", "save", "write images to an archive"),
        "import": ("archives", "import", "make an image from a root file system's tar"),
        "export": ("archives", "export", "write a container's root file system as a tar"),
        "image bootstrap": ("archives", "bootstrap", "make a base image from Debian's packages"),
        "image pull": ("registry", "pull", "bring images from a registry, ready to run"),
        "image push": ("registry", "push", "send images to a registry"),
        "image copy": (
            "transfer",
            "copy",
            "between registries, layouts and archives",
        ),
        "image history": ("values", "history", "how an image was made"),
        "image tree": ("values", "tree", "which images share which layers"),
        "image diff": ("values", "compare", "what tells two images apart"),
        "image validate": ("values", "validate", "whether an image is as the specification wants"),
        "image sbom": ("values", "sbom", "the software in an image, as SPDX or CycloneDX"),
        "image mutate": ("values", "mutate", "a new image: configuration, layers, base, flat"),
        "image referrers": ("remote", "referrers", "what is attached to an image in a registry"),
        "image attach": ("remote", "attach", "attach a file to an image in a registry"),
        "image prune": ("prune", "images", "remove images that nobody uses"),
        "image fsck": ("store", "fsck", "compare all content with its digests, and repair"),
        "image ls": ("images", "ls", "list images"),
        "image rm": ("images", "rm", "remove images"),
        "image tag": ("images", "tag", "give an image one more name"),
        "image inspect": ("inspect", "image", "everything known about an image, as JSON"),
        "image load": ("archives", "load", "read images from an archive"),
        "image save": ("archives", "save", "write images to an archive"),
        "image import": ("archives", "import", "make an image from a root file system's tar"),
    },
    "Registries": {
        "registry serve": ("registry_serve", "serve", "offer this machine's images to others"),
        "registry tags": ("remote", "tags", "tags of a repository"),
        "registry ls": ("remote", "ls", "repositories of a registry"),
        "registry rm": ("remote", "rm", "delete tags or manifests from a registry"),
        "registry login": ("registry", "login", "keep who you are to a registry"),
        "registry logout": ("registry", "logout", "forget who you are to a registry"),
    },
    "Volumes": {
        "volume create": ("volumes", "create", "make a volume"),
        "volume ls": ("volumes", "ls", "list volumes"),
        "volume inspect": ("inspect", "volume", "everything known about a volume, as JSON"),
        "volume rm": ("volumes", "rm", "remove volumes"),
        "volume prune": ("prune", "volumes", "remove volumes that no container uses"),
    },
    "Networks": {
        "network create": ("networks", "create", "make a network"),
        "network ls": ("networks", "ls", "list networks"),
        "network inspect": ("inspect", "network", "everything known about a network, as JSON"),
        "network connect": ("networks", "connect", "put a container into one more network"),
        "network disconnect": ("networks", "disconnect", "take a container out of a network"),
        "network rm": ("networks", "rm", "remove networks"),
        "network prune": ("networks", "prune", "remove networks that no container is in"),
    },
    "Engine": {
        "info": ("system", "info", "what the host and the engine can do"),
        "version": ("system", "version", "the version of the command and of the engine"),
        "engine status": ("system", "status", "the resident engine: process, memory, counts"),
        "engine start": ("system", "start", "start the resident engine, as a boot does"),
        "engine stop": ("system", "stop", "end the resident engine; containers run on"),
        "system prune": ("prune", "system", "remove everything that nobody uses"),
        "system check": ("check", "check", "compare the records with the kernel, and repair"),
        "system df": ("store", "df", "what images, containers and volumes take on disk"),
        "system events": ("events", "events", "what happens, as it happens"),
        "system info": ("system", "info", "what the host and the engine can do"),
        "system version": ("system", "version", "the version of the command and of the engine"),
        "completion": ("completion", "completion", "a completion script for bash, zsh or fish"),
    },
}

#: `onggi container VERB` is the same as `onggi VERB`.
CONTAINER_VERBS = (
    "run create start exec attach stop kill wait rm logs top stats export inspect commit"
    " diff port cp debug restart pause unpause rename update".split()
)
#: first word → what it is about.
FAMILIES = {
    "container": "containers (the same verbs as without it)",
    "image": "images",
    "registry": "registries",
    "volume": "volumes",
    "network": "networks",
    "engine": "the resident engine",
    "system": "the host",
}
_ALIASES = {
    "container ls": "ps", "container ps": "ps", "container list": "ps", "image list": "image ls",
    "volume list": "volume ls", "image remove": "image rm", "volume remove": "volume rm",
    "network list": "network ls", "network remove": "network rm",
    "container remove": "rm",
}  # fmt: skip


def entries() -> dict[str, tuple[str, str, str]]:
    """Every verb with its aliases under `container`."""
    found = {name: entry for group in GROUPS.values() for name, entry in group.items()}
    found |= {f"container {name}": found[name] for name in CONTAINER_VERBS}
    found["container inspect"] = ("inspect", "container", found["inspect"][2])
    found["container ls"] = found["ps"]
    return found


def entry_of(name: str) -> tuple[str, str, str] | None:
    """The entry of a verb of one or two words, aliases included."""
    name = _ALIASES.get(name, name)
    if name == "container inspect":
        return ("inspect", "container", GROUPS["Look"]["inspect"][2])
    word = name.removeprefix("container ")
    if word != name and word not in CONTAINER_VERBS and word != "ps":
        word = name
    for group in GROUPS.values():
        if word in group:
            return group[word]
    return None


def load(entry: tuple[str, str, str]) -> Verb:
    """The verb itself; imports its room and no other."""
    module = __import__(f"onggi.faces.cli.verbs.{entry[0]}", fromlist=("VERBS",))
    verb: Verb = module.VERBS[entry[1]]
    return verb
