#!/bin/sh
# Back the database up into $STATE_DIRECTORY/backup and keep the last 14 (signalbox-backup.service).
set -eu
flask="${FLASK:-/opt/signalbox/.venv/bin/flask}"
folder="$STATE_DIRECTORY/backup"
mkdir -p "$folder"
rm -f "$folder/unfinished"  # of a night when the machine or the disk failed
"$flask" db backup "$folder/unfinished"
mv "$folder/unfinished" "$folder/signalbox-$(date -u +%Y-%m-%dT%H%M%SZ).db"
# Names sort by age, and only backups have such names.
find "$folder" -name 'signalbox-????-??-??T??????Z.db' | sort -r | tail -n +15 | xargs -r rm --
