"""An OAuth2 issuer by Authlib on Flask: client credentials for signed tokens. Authlib checks the client, the grant and its scope.

token_issuer.py PORT KEY_FILE CLIENT_ID CLIENT_SECRET LIFE_SECONDS
"""

import sys

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask, request
from joserfc.jwk import KeySet, RSAKey

port, key_file, client_id, client_secret, life = sys.argv[1:]
issuer = f"http://127.0.0.1:{port}"
with open(key_file, encoding="ascii") as file:
    keys = KeySet([RSAKey.import_key(file.read(), {"kid": "1", "alg": "RS256"})])


class Client(ClientMixin):
    def get_client_id(self):
        return client_id

    def get_allowed_scope(self, scope):
        return " ".join(part for part in (scope or "").split() if part == "produce")

    def check_client_secret(self, secret):
        return secret == client_secret

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_post"

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"


class Grant(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_post"]


class Tokens(JWTBearerTokenGenerator):
    def get_jwks(self):
        return keys

    def get_audiences(self, client, user, scope):
        return request.form.get("audience", "nobody")


app = Flask(__name__)
app.config["OAUTH2_SCOPES_SUPPORTED"] = ["produce"]
server = AuthorizationServer(
    app,
    query_client=lambda asked: Client() if asked == client_id else None,
    save_token=lambda token, request: None,
)
server.register_grant(Grant)
server.register_token_generator(
    "client_credentials", Tokens(issuer=issuer, expires_generator=lambda client, grant: int(life))
)


@app.get("/realm/.well-known/openid-configuration")
def discovery():
    return {"issuer": f"{issuer}/realm", "token_endpoint": f"{issuer}/realm/token"}


@app.post("/realm/token")
def token():
    return server.create_token_response()


app.run("127.0.0.1", int(port), threaded=True)
