# What `kafka up --secured` adds: a CA for the brokers and one for the clients, users with a certificate and a password,
# and listeners that want them. The files are called what Strimzi calls the keys of its Secrets, so that a directory
# here is what a pod finds mounted:
#   cluster-ca-cert/       ca.crt
#   users/NAME/tls/        ca.crt user.crt user.key user.p12 user.password      KafkaUser with authentication tls
#   users/NAME/scram/      password sasl.jaas.config                            KafkaUser with authentication scram-sha-512
# Sourced by `kafka`, which sets STATE.
# shellcheck shell=bash disable=SC2034

SECURITY=$STATE/security
FIRST_USER=relay # may do everything; every other user only what `kafka allow` grants it

make_authority() { # NAME
    mkdir -p "$SECURITY/private" "$SECURITY/$1-cert"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/O=io.strimzi/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$SECURITY/private/$1.key" -out "$SECURITY/$1-cert/ca.crt" 2> /dev/null
}

make_certificate() { # AUTHORITY SUBJECT KEY CERTIFICATE EXTENSIONS [DAYS]
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$3" 2> /dev/null |
        openssl x509 -req -days "${6:-30}" -CA "$SECURITY/$1-cert/ca.crt" -CAkey "$SECURITY/private/$1.key" \
            -extfile <(printf '%s\n' "$5") -out "$4" 2> /dev/null
}

# make_user NAME: anew each time, as when it is rotated. The brokers know the certificate by its CA; the password has to
# be told to them.
make_user() {
    local home=$SECURITY/users/$1
    mkdir -p "$home/tls" "$home/scram"
    cp "$SECURITY/clients-ca-cert/ca.crt" "$home/tls/ca.crt"
    make_certificate clients-ca "/CN=$1" "$home/tls/user.key" "$home/tls/user.crt" extendedKeyUsage=clientAuth
    openssl rand -hex 16 | tr -d '\n' > "$home/tls/user.password"
    openssl pkcs12 -export -name "$1" -in "$home/tls/user.crt" -inkey "$home/tls/user.key" \
        -passout "file:$home/tls/user.password" -out "$home/tls/user.p12"
    openssl rand -hex 16 | tr -d '\n' > "$home/scram/password"
    printf 'org.apache.kafka.common.security.scram.ScramLoginModule required username="%s" password="%s";' \
        "$1" "$(cat "$home/scram/password")" > "$home/scram/sasl.jaas.config"
}

# end_certificate NAME: a certificate that was right, and is over.
end_certificate() {
    local files=$SECURITY/users/$1/tls
    make_certificate clients-ca "/CN=$1" "$files/user.key" "$files/user.crt" extendedKeyUsage=clientAuth 0
}

make_security() {
    make_authority cluster-ca
    make_authority clients-ca
    make_certificate cluster-ca /O=io.strimzi/CN=kafka "$SECURITY/private/broker.key" "$SECURITY/private/broker.crt" \
        "subjectAltName=IP:127.0.0.1,IP:$HOST_FROM_PODS,DNS:localhost"
    cat "$SECURITY/private/broker.key" "$SECURITY/private/broker.crt" > "$SECURITY/private/broker.pem"
    make_user "$FIRST_USER"
}

# What the brokers' storage is made with, so that the first user is known from the start.
first_user_options() {
    local mechanism password
    password=$(cat "$SECURITY/users/$FIRST_USER/scram/password")
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
        printf '%s\n' --add-scram "$mechanism=[name=$FIRST_USER,password=$password]"
    done
}

security_properties() {
    local modules=org.apache.kafka.common.security
    cat << PROPERTIES

ssl.keystore.type=PEM
ssl.keystore.location=$SECURITY/private/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$SECURITY/clients-ca-cert/ca.crt
listener.name.mutual_tls.ssl.client.auth=required

listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl.plain.sasl.jaas.config=$modules.plain.PlainLoginModule required user_$FIRST_USER="$(cat "$SECURITY/users/$FIRST_USER/scram/password")";
listener.name.sasl.scram-sha-256.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=$modules.scram.ScramLoginModule required;
# Takes any token, even one without a signature: this proves that a token is sent, not that a provider is trusted.
listener.name.sasl.oauthbearer.sasl.jaas.config=$modules.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:$FIRST_USER;User:CN=$FIRST_USER
PROPERTIES
}
