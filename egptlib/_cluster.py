"""The one way to a Dask scheduler, for sweeps and extractions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client


def connect(address: str) -> "Client":
    """Connect to a scheduler; to a ``tls://`` one with the files that Dask's own settings name (docs/cluster.md).

    Raises:
        OSError: Dask is not installed, no scheduler answers at `address`, or its certificate is not ours.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise OSError("--cluster needs Dask: pip install -r requirements-cluster.txt") from error
    try:
        return Client(address, timeout=10, set_as_default=True)
    # TypeError: TLS without any certificate; AssertionError: on a busy machine its event loop was not up in ten seconds
    except (OSError, ValueError, TypeError, AssertionError) as error:
        hint = "; for tls:// set the files of its certificate, see docs/cluster.md" * address.startswith("tls:")
        kind = type(error).__name__
        raise OSError(f"cluster {address!r}: no Dask scheduler answers there ({kind}){hint}") from error
