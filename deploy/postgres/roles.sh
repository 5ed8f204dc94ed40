#!/bin/sh
# Run once by the image of PostgreSQL, on an empty database: the roles that lotmeter migrate grants
# to. The owner makes and changes tables; the app meters; the reader only looks.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
    --set=app_password="$LOTMETER_APP_PASSWORD" --set=reader_password="$LOTMETER_READER_PASSWORD" <<'SQL'
CREATE ROLE lotmeter_app LOGIN PASSWORD :'app_password';
CREATE ROLE lotmeter_reader LOGIN PASSWORD :'reader_password';
-- Whoever looks must not hold up whoever meters, and finds the views by their plain names.
ALTER ROLE lotmeter_reader SET default_transaction_read_only = on;
ALTER ROLE lotmeter_reader SET statement_timeout = '30s';
ALTER ROLE lotmeter_reader SET search_path = lotmeter;
SQL
