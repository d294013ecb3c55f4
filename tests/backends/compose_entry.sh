#!/bin/sh
# Stands in for the entrypoints of the official images: prepares the server's folder, drops root, starts the server.
set -eu
case "$1" in
postgres)
  shift
  data=/var/lib/postgresql/data
  programs=$(echo /usr/lib/postgresql/*/bin)
  chown postgres:postgres "$data"
  run="setpriv --reuid=postgres --regid=postgres --init-groups"
  $run "$programs/initdb" -D "$data" -A trust -U postgres --no-sync >/dev/null
  echo "host all all all trust" >>"$data/pg_hba.conf"
  exec $run "$programs/postgres" -D "$data" -k /tmp -c listen_addresses=* "$@"
  ;;
mariadbd)
  shift
  data=/var/lib/mysql
  chown mysql:mysql "$data"
  mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
  {
    echo "SET SESSION sql_log_bin = 0;"
    echo "CREATE USER IF NOT EXISTS root@'$MARIADB_ROOT_HOST';"
    echo "GRANT ALL ON *.* TO root@'$MARIADB_ROOT_HOST' WITH GRANT OPTION;"
    cat /docker-entrypoint-initdb.d/*.sql 2>/dev/null || true
  } >/tmp/init.sql
  exec mariadbd --no-defaults --user=mysql --datadir="$data" --socket=/tmp/mysqld.sock --init-file=/tmp/init.sql "$@"
  ;;
memcached)
  exec "$@" -u nobody
  ;;
esac
exec "$@"
