{#- Overrides the macro of dbt-postgres, which merges a batch by its unique key, so that a row that
    was deleted from the source stays in the table. This macro deletes the batch's time window and
    inserts the batch, in the transaction of the model. It needs no unique key. -#}
{% macro postgres__get_incremental_microbatch_sql(arg_dict) %}
    {%- set event_time = model.config.event_time -%}
    delete from {{ arg_dict["target_relation"] }}
    where {{ event_time }} >= '{{ model.batch.event_time_start }}'
        and {{ event_time }} < '{{ model.batch.event_time_end }}';

    {{ get_incremental_append_sql(arg_dict) }}
{% endmacro %}
