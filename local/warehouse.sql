-- What a new database of the container `warehouse` begins with: that of local/postgres.py, without
-- a superuser who can log in. The password is no secret: anyone can read it here, and the port is
-- open to this machine only.
create role dbt login password 'local-dbt-only';
create database warehouse;
revoke all on database warehouse, postgres, template1 from public;
grant connect, create, temporary on database warehouse to dbt;
alter role postgres password null;
