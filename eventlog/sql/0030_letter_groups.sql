-- The letters of a text in groups of three, from each letter on. The last two groups are shorter.
-- By them, an index of a read table finds the rows that contain a text of any length and script,
-- with punctuation: one or two letters begin a group, three are one, and more are several.
CREATE FUNCTION letter_groups(searched text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    letters text := replace(searched, E'\x1f', ' ');  -- the character that separates the groups
BEGIN
    -- A tsvector has at most 1,048,575 bytes, and each letter is in three groups. A longer text is
    -- indexed without groups, by a sign that every query finds.
    IF octet_length(letters) > 349000 THEN
        RETURN array_to_tsvector(ARRAY[E'\x1f']);
    END IF;
    RETURN array_to_tsvector(array_remove(string_to_array(
        regexp_replace(letters, '...', E'\\&\x1f', 'g') || E'\x1f'
        || regexp_replace(substr(letters, 2), '...', E'\\&\x1f', 'g') || E'\x1f'
        || regexp_replace(substr(letters, 3), '...', E'\\&\x1f', 'g'), E'\x1f'), ''));
END $$;

REVOKE EXECUTE ON FUNCTION letter_groups FROM PUBLIC;
GRANT EXECUTE ON FUNCTION letter_groups TO annals_projector;

-- What the groups of a text contain if a pattern of LIKE finds the text. The pattern begins and ends
-- with % and has no other wildcard. Its letters are taken in groups that cover it, so that few are
-- looked for; LIKE then decides. Without letters, only texts without groups are found.
CREATE FUNCTION letter_query(pattern text) RETURNS tsquery
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    plain text := regexp_replace(
        substr(pattern, 2, greatest(length(pattern) - 2, 0)), '\\(.)', '\1', 'g');
    letters text := replace(plain, E'\x1f', ' ');
    last integer := greatest(length(letters) - 2, 1);
    is_prefix text := CASE WHEN length(letters) < 3 THEN ':*' ELSE '' END;
    quoted text;
    groups text;
BEGIN
    FOR start IN 1 .. length(letters) BY 3 LOOP
        quoted := replace(replace(substr(letters, least(start, last), 3), '\', '\\'), '''', '''''');
        groups := concat_ws(' & ', groups, '''' || quoted || '''' || is_prefix);
    END LOOP;
    RETURN concat_ws(' | ', groups, '''' || E'\x1f' || '''')::tsquery;
END $$;

REVOKE EXECUTE ON FUNCTION letter_query FROM PUBLIC;
GRANT EXECUTE ON FUNCTION letter_query TO annals_projector;
