"""The `cllm` command."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from . import (
    TOP,
    VERSION,
    CllmError,
    build,
    catalogue,
    config,
    cuda,
    disks,
    extras,
    fetch,
    gpud,
    licenses,
    lint,
    machines,
    run,
    schema,
)
from .lock import locks

# Commands that are programs with flags of their own: Python's arguments for each.
PROGRAMS = {"bench": (str(TOP / "bench"),), "test-upstream": ("-m", "upstream")}


def number(key):
    low, high = config.NUMBERS[key]

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {low} to {high}")
        return value

    return parse


def add_boot_flags(parser, serial=True):
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "-m",
        "--model",
        metavar="FILE.gguf",
        help=f"the model; {config.DEFAULT_MODEL} names the default one; without it cllm boots "
        "and serves no model",
    )
    model.add_argument(
        "-hf",
        "--hf-repo",
        type=lambda name: config.HUB + name,
        dest="model",
        metavar="USER/REPO[:QUANT]",
        help="a model of Hugging Face's hub, downloaded if it is not here (default Q4_K_M)",
    )
    model.add_argument(
        "-mu", "--model-url", dest="model", metavar="URL", help="a model at a URL [#sha256=HEX]"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        default=None,
        help="take models that are here, ask nobody",
    )
    parser.add_argument(
        "--port", type=number("port"), help="of 127.0.0.1 (default 8080; 0 takes a free one)"
    )
    parser.add_argument(
        "--smp", type=number("smp"), metavar="N", help="virtual CPUs (default: the host's)"
    )
    parser.add_argument(
        "--memory", type=number("memory"), metavar="MiB", help="default: what the model needs"
    )
    parser.add_argument("--accel", choices=config.ACCELS, help="default auto")
    parser.add_argument(
        "--kernels",
        choices=config.KERNELS,
        help="ggml: upstream's; exact: a token depends on its request alone; tcg: fastest under "
        "QEMU's TCG, nearly exact (default auto: tcg where QEMU emulates, else exact)",
    )
    parser.add_argument(
        "--on-crash",
        choices=config.ON_CRASH,
        help="when the guest crashes: end with the reason (default), or reboot like a machine",
    )
    parser.add_argument(
        "--cpu-variant",
        choices=config.CPU_VARIANTS,
        help="instruction set for the model (default: the best that the processor has)",
    )
    parser.add_argument(
        "--nic", choices=config.NICS, help="the network card (default auto: virtio)"
    )
    parser.add_argument(
        "--machine", choices=machines.NAMES, help="QEMU's machine (default auto: pc)"
    )
    parser.add_argument(
        "--disk",
        action="append",
        metavar=disks.WORDS,
        help="a disk image, on one of three controllers (default virtio), read only with ,ro; may "
        "come several times",
    )
    parser.add_argument(
        "--gpu",
        choices=config.GPUS,
        help="cuda: this machine's NVIDIA cards; ptx: an interpreter, for tests; auto: cuda where "
        "there is a card, else off (default off)",
    )
    parser.add_argument(
        "--gpu-memory",
        type=number("gpu_memory"),
        metavar="MiB",
        help="what the guest may have of a GPU's memory (default: all; of the interpreter 1024)",
    )
    parser.add_argument(
        "--tls",
        metavar="CERT.pem,KEY.pem",
        help="serve HTTPS with this certificate and key: `cllm cert new` makes them",
    )
    parser.add_argument(
        "--tls-port",
        type=number("tls_port"),
        help="of 127.0.0.1, for HTTPS (default 8443; 0 takes a free one)",
    )
    parser.add_argument("--config", metavar="FILE.json", help="what the flags hold, and more")
    parser.add_argument("--app", metavar="FILE.py", help="handlers to add: from cllm import app")
    if serial:
        parser.add_argument(
            "--serial",
            metavar="stdio|pty|FILE",
            help="where the guest's serial line goes (default stdio; Ctrl-C ends the run)",
        )
    parser.add_argument("--pcap", metavar="FILE", help="capture every frame of the network card")


def variable_of(action):
    """Return the name of the environment variable that stands for a flag: CLLM_SMP for --smp."""
    name = next(option for option in action.option_strings if option.startswith("--"))
    return "CLLM_" + name[2:].upper().replace("-", "_")


def add_environment(parser, arguments):
    """Set the flags of `cllm run` that were not given from CLLM_* variables; empty is not set."""
    for action in parser._actions:
        if action.dest == "help" or not action.option_strings:
            continue
        text = os.environ.get(variable_of(action))
        if not text or getattr(arguments, action.dest) is not None:
            continue
        name = variable_of(action)
        if action.nargs == 0:
            if text not in ("0", "1"):
                parser.error(f"{name} must be 0 or 1, not {text}")
            setattr(arguments, action.dest, text == "1")
            continue
        try:
            value = parser._get_value(action, text)
            parser._check_value(action, value)
        except argparse.ArgumentError as error:
            parser.error(f"{name}: {error.message}")
        setattr(arguments, action.dest, value)


class Version(argparse.Action):
    """--version: reads the lock files only when it is asked for."""

    def __call__(self, parser, *_):
        llama, micropython = locks()["llama.cpp"], locks()["micropython"]
        print(
            f"cllm {VERSION}\nllama.cpp as in {llama.name} {llama.version}\n"
            f"MicroPython {micropython.version}"
        )
        parser.exit()


def make_parser():
    parser = argparse.ArgumentParser(prog="cllm", description="Build and boot cllm.")
    parser.add_argument(
        "--version", action=Version, nargs=0, help="print the versions of cllm and its parts"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    boots = commands.add_parser("run", help="boot the image and stay in the foreground")
    boots.set_defaults(parser=boots)
    add_boot_flags(boots)
    for name, words in (
        ("repl", "boot with every key, Ctrl-C too, for the guest; Ctrl-] ends it"),
        ("debug", "boot, and wait for gdb"),
    ):
        boots = commands.add_parser(name, help=words)
        boots.set_defaults(parser=boots)
        add_boot_flags(boots, serial=name != "repl")
    image = commands.add_parser("build", help="bring build/cllm.elf up to date")
    image.add_argument(
        "--production",
        action="store_true",
        help="leave out self tests and deliberate crashes, as CLLM_SELFTEST=0 does",
    )
    image.add_argument(
        "--gpu",
        action="store_true",
        help="build/cllm-gpu.elf too, which computes on GPUs, its pack of PTX, and gpud",
    )
    catalogue.add_commands(commands)
    schema.add_command(commands)
    commands.add_parser("fetch", help="download and unpack what a build and a run need")
    test = commands.add_parser("test", help="build what tests need and run pytest")
    test.add_argument("arguments", nargs=argparse.REMAINDER, help="for pytest")
    commands.add_parser(
        "test-upstream", add_help=False, help="run MicroPython's own tests in the guest"
    )
    commands.add_parser(
        "reference", help="build llama.cpp's own server, which tests/api compares with"
    )
    commands.add_parser(
        "bench", add_help=False, help="compare with llama-server in a small Linux guest"
    )
    backend = commands.add_parser(
        "cuda", help="build llama.cpp's CUDA backend and build/cllm.ptxpack; fetches its compiler"
    )
    backend.add_argument(
        "--profile",
        choices=cuda.PROFILES,
        default="ci",
        help="ci: what the tests compute with (default); full: all that upstream builds",
    )
    backend.add_argument(
        "--architectures",
        metavar="CC,...",
        default="61",
        help="compute capabilities to compile for: 61,80 for 6.1 and 8.0 (default 61)",
    )
    cert = commands.add_parser("cert", help="make a certificate for HTTPS")
    cert_commands = cert.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = cert_commands.add_parser("new", help="one that signs itself: cert.pem and key.pem")
    new.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="host names and addresses that clients use (default cllm.local localhost 127.0.0.1)",
    )
    new.add_argument("--days", type=int, default=3650, help="validity (default 3650)")
    new.add_argument("--key", choices=("ecdsa", "rsa"), default="ecdsa", help="default ecdsa")
    new.add_argument("--out", metavar="FOLDER", default=".", help="default: here")
    commands.add_parser("lint", help="check all sources; changes nothing")
    commands.add_parser("format", help="lay out all sources by ruff and clang-format")
    commands.add_parser("licenses", help="print the licences of all components")
    return parser


def boot(arguments):
    if "parser" in arguments:
        add_environment(arguments.parser, arguments)
    flags = {key: getattr(arguments, key, None) for key in (*config.DEFAULTS, *config.FLAGS)}
    settings, guest_settings = config.settings(flags, arguments.config)
    repl = arguments.command == "repl"
    if repl:
        settings["serial"] = "stdio"
    return run.run(
        settings, guest_settings, every_key=repl, wait_for_debugger=arguments.command == "debug"
    )


def new_certificate(arguments):
    from . import certificates  # cryptography takes a while to load

    names = arguments.names or ["cllm.local", "localhost", "127.0.0.1"]
    certificate, key, mark = certificates.make(names, arguments.days, arguments.key)
    paths = certificates.write(Path(arguments.out), certificate, key)
    print(f"{paths[0]} and {paths[1]}, for {', '.join(names)}\nSHA-256 fingerprint: {mark}")
    print(f"cllm run --tls {paths[0]},{paths[1]}")


def build_gpu_tests():
    """Build what tests of the CUDA backend need; return why that cannot be done here, or ""."""
    gpud.build()
    try:
        cuda.ready()
    except CllmError as error:
        print(f"cllm: {error}; the tests that compute on GPUs are skipped", file=sys.stderr)
        return str(error)
    build.build_gpu_image()
    cuda.build_program()
    return ""


def test(arguments):
    build.build_host_library()
    build.build_ptx()
    build.build_tls()
    build.build_image()
    no_cuda = build_gpu_tests() if os.environ.get("CLLM_TEST_GPU") else ""
    for extra in (extras.CLIENTS, extras.PLOTS):
        try:
            extra.ensure()
        except CllmError as error:
            print(f"cllm: {error}; the tests with it are skipped", file=sys.stderr)
    environment = {"MICROPYTHON": str(build.build_unix()), **os.environ}
    environment["CLLM_NO_CUDA"] = no_cuda
    environment["CLLM_TEST_MODEL"] = str(fetch.default_model())
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=TOP, env=environment).returncode


def main(arguments=None):
    parser = make_parser()
    try:
        arguments, rest = parser.parse_known_args(arguments)
        if rest and arguments.command not in PROGRAMS:
            parser.error("unrecognized arguments: " + " ".join(rest))
        if arguments.command == "build":
            if arguments.production:
                os.environ["CLLM_SELFTEST"] = "0"
            if arguments.gpu:
                gpud.build()
            make = build.build_gpu_image if arguments.gpu else build.build_image
            print(os.path.relpath(make()))
        elif arguments.command == "fetch":
            fetch.ensure_all()
        elif arguments.command == "test":
            return test(arguments.arguments)
        elif arguments.command == "config":
            return schema.command(arguments)
        elif arguments.command in catalogue.COMMANDS:
            return catalogue.COMMANDS[arguments.command](arguments)
        elif arguments.command in PROGRAMS:
            # In place of this process, so that Ctrl-C and the exit status are the program's.
            os.execv(sys.executable, [sys.executable, *PROGRAMS[arguments.command], *rest])
        elif arguments.command == "lint":
            return lint.lint()
        elif arguments.command == "format":
            return lint.reformat()
        elif arguments.command == "cuda":
            cuda.build(arguments.profile, cuda.architectures(arguments.architectures))
            print(os.path.relpath(cuda.PACK))
        elif arguments.command == "reference":
            print(os.path.relpath(build.build_reference()))
        elif arguments.command == "cert":
            new_certificate(arguments)
        elif arguments.command == "licenses":
            print(licenses.report())
        else:
            return boot(arguments)
    except CllmError as error:
        print(f"cllm: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        # A failure that no command expects: a full disk, a folder that is gone.
        print(f"cllm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
