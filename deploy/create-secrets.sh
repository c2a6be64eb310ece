#!/bin/sh
# Creates the secrets of compose.yaml that are missing, one file each; existing ones are kept.
#
#   deploy/create-secrets.sh [FOLDER [HOST:PORT]]     default: secrets postgres:5432
#
# Only the owner can enter the folder. The files in it are readable, because Compose mounts them as
# they are, and the processes in the containers run as other users.
set -eu

folder=${1:-secrets}
server=${2:-postgres:5432}

random() {
    head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}

# create NAME TEXT: writes the file under another name first, so that no half of it is ever read.
create() {
    [ -e "$folder/$1" ] && return
    printf '%s' "$2" >"$folder/.$1"
    chmod 444 "$folder/.$1"
    mv "$folder/.$1" "$folder/$1"
    echo "created $folder/$1"
}

umask 077
mkdir -p "$folder"
chmod 700 "$folder"

create postgres_password "$(random)"
password=$(cat "$folder/postgres_password")
create annals_superuser_url "postgresql://postgres:$password@$server/postgres"
for role in owner app projector sender; do
    create "annals_${role}_url" "postgresql://annals_$role:$(random)@$server/annals"
done
create annals_metrics_token "$(random)"
# Empty until Twilio is used: write its auth token into it.
create annals_sms_twilio_token ""
