-- The first statements of the local warehouse, of `make start` and of the container `warehouse`.
-- dbt is not the owner of the database, who could drop or rename it, and no superuser can log in.
-- The password is no secret: anyone can read it here, and the port is open to this machine only.
-- The single-user mode of Postgres reads each line as a statement.
create role dbt login password 'local-dbt-only';
create database warehouse;
revoke all on database warehouse, postgres, template1 from public;
grant connect, create, temporary on database warehouse to dbt;
alter role postgres password null;
