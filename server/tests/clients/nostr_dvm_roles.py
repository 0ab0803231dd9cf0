"""nostr-dvm as a provider and as a customer; nostr-dvm.test.mjs runs this program in a folder of its own.

    nostr_dvm_roles.py provider URL          answers requests of kind 5050 with the input in upper case
    nostr_dvm_roles.py customer URL PUBKEY   its bot: whoever writes it "1 TEXT" by NIP-04 gets the answer of the agent PUBKEY

Each first prints `pubkey` and its own key. SIGINT ends the provider as its framework does: it retracts its announcement, then
kills itself.
"""

import json
import sys
import types


def absent(name, *classes):
    """An empty module in the place of one that nostr-dvm imports for media and tables, and never uses for text."""
    module = sys.modules[name] = types.ModuleType(name)
    for each in classes:
        setattr(module, each, type(each, (), {}))


absent("ffmpegio")
absent("pandas", "DataFrame")
absent("pyupload")
absent("pyupload.uploader", "CatboxUploader")
absent("yt_dlp", "YoutubeDL")

from nostr_dvm.bot import Bot  # noqa: E402
from nostr_dvm.framework import DVMFramework  # noqa: E402
from nostr_dvm.tasks.generic_dvm import GenericDVM  # noqa: E402
from nostr_dvm.utils.admin_utils import AdminConfig  # noqa: E402
from nostr_dvm.utils.dvmconfig import DVMConfig  # noqa: E402
from nostr_dvm.utils.external_dvm_utils import build_external_dvm  # noqa: E402
from nostr_dvm.utils.nip89_utils import NIP89Config, nip89_create_d_tag  # noqa: E402
from nostr_sdk import Keys, Kind  # noqa: E402

TEXT_GENERATION = Kind(5050)


def configured(url, name):
    """A configuration with a new key and no relay but ours. The one that nostr-dvm builds registers a wallet on the Internet."""
    keys = Keys.generate()
    config = DVMConfig()
    config.PRIVATE_KEY = keys.secret_key().to_hex()
    config.PUBLIC_KEY = keys.public_key().to_hex()
    config.IDENTIFIER = name
    config.RELAY_LIST = config.ANNOUNCE_RELAY_LIST = [url]
    config.NIP88 = None
    print(f"pubkey {config.PUBLIC_KEY}", flush=True)
    return config


class Shout(GenericDVM):
    """Its base class answers with a constant, and needs an option."""

    async def create_request_from_nostr_event(self, event, client=None, dvm_config=None):
        tags = [tag.to_vec() for tag in event.tags()]
        inputs = [tag[1] for tag in tags if tag[0] == "i" and tag[2] == "text"]
        return {"jobID": event.id().to_hex(), "options": json.dumps({"input": " ".join(inputs)})}

    async def process(self, request_form):
        return self.set_options(request_form)["input"].upper()


def provide(url):
    config = configured(url, "shout")
    config.KIND = TEXT_GENERATION
    announcement = NIP89Config()
    announcement.KIND = TEXT_GENERATION
    announcement.DTAG = nip89_create_d_tag("shout", config.PUBLIC_KEY, "")
    announcement.CONTENT = json.dumps({"name": "shout", "about": "In upper case", "supportsEncryption": True, "nip90Params": {}})
    admin = AdminConfig()
    admin.REBROADCAST_NIP89 = admin.REBROADCAST_NIP65_RELAY_LIST = admin.UPDATE_PROFILE = True
    framework = DVMFramework()
    framework.add(Shout(name="shout", dvm_config=config, nip89config=announcement, admin_config=admin))
    framework.run()


def order(url, agent):
    config = configured(url, "bot")
    # It reads the agent's announcement (kind 31990), and encrypts its requests if that says so.
    config.SUPPORTED_DVMS = [build_external_dvm(agent, "text-generation", TEXT_GENERATION, 0, 0, config)]
    print(f"encrypts {config.SUPPORTED_DVMS[0].SUPPORTS_ENCRYPTION}", flush=True)
    Bot(config)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    {"provider": provide, "customer": order}[role](*arguments)
