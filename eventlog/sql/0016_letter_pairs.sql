-- The letters of a text in pairs, from each letter on. By them, an index of a read table finds texts
-- that contain one or two letters, which trigrams cannot.
CREATE FUNCTION letter_pairs(searched text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    -- The pairs that begin at odd letters, and those that begin at even ones.
    RETURN array_to_tsvector(array_remove(string_to_array(
        regexp_replace(searched, '(..)', E'\\1\x1f', 'g') || E'\x1f'
        || regexp_replace(substr(searched, 2), '(..)', E'\\1\x1f', 'g'), E'\x1f'), ''));
END $$;

REVOKE EXECUTE ON FUNCTION letter_pairs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION letter_pairs TO annals_projector;
