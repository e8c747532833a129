{#- dbt-postgres merges a batch by its unique key, so a row that is gone from the source would stay.
    Here a batch replaces its whole window, in the transaction of the model. -#}
{% macro postgres__get_incremental_microbatch_sql(arg_dict) %}
    {%- set event_time = model.config.event_time -%}
    delete from {{ arg_dict["target_relation"] }}
    where {{ event_time }} >= '{{ model.batch.event_time_start }}'
        and {{ event_time }} < '{{ model.batch.event_time_end }}';

    {{ get_incremental_append_sql(arg_dict) }}
{% endmacro %}
