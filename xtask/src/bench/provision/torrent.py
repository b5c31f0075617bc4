"""A swarm of libtorrent: makes a torrent, seeds a file, or fetches one from all others.

No tracker, no DHT, no uTP: every peer is told of all others, so that the mesh is full.
"""
import sys

import libtorrent

PORT = 6881


def make(file, piece_bytes, torrent):
    files = libtorrent.list_files(file)
    made = libtorrent.create_torrent(files, int(piece_bytes), libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(made, file.rsplit("/", 1)[0])
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))


def session(address):
    return libtorrent.session({
        "listen_interfaces": f"{address}:{PORT}",
        "outgoing_interfaces": address,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "min_reconnect_time": 1,
        "max_out_request_queue": 64,
        "connections_limit": 400,
        "alert_mask": libtorrent.alert.category_t.status_notification
        | libtorrent.alert.category_t.error_notification,
    })


def wanted(torrent, directory):
    it = libtorrent.load_torrent_file(torrent)
    it.save_path = directory
    # Begin at once, not when a queue says so.
    it.flags &= ~(libtorrent.torrent_flags.paused | libtorrent.torrent_flags.auto_managed)
    return it


def take(address, torrent, directory, peers):
    swarm = session(address)
    print("ready", flush=True)
    sys.stdin.read()
    mine = swarm.add_torrent(wanted(torrent, directory))
    for peer in peers:
        mine.connect_peer((peer, PORT))
    done = False
    while True:
        swarm.wait_for_alert(100)
        for alert in swarm.pop_alerts():
            if isinstance(alert, (libtorrent.torrent_error_alert, libtorrent.file_error_alert)):
                sys.exit(str(alert))
        if not done and mine.status().is_seeding:
            done = True
            print("done", flush=True)


def seed(address, torrent, directory):
    swarm = session(address)
    mine = wanted(torrent, directory)
    mine.flags |= libtorrent.torrent_flags.seed_mode
    swarm.add_torrent(mine)
    print("seeding", flush=True)
    while True:
        swarm.wait_for_alert(1000)
        swarm.pop_alerts()


what, *more = sys.argv[1:]
if what == "make":
    make(*more)
elif what == "seed":
    seed(*more)
else:
    take(more[0], more[1], more[2], more[3:])
