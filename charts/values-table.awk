# Turns values.yaml into the tables of the chart's README: a heading for each top-level map, a row for each value.
# values.yaml keeps to a form that this can read: one key a line, a comment above each key, defaults in flow style.

function fail(reason) {
    printf "values.yaml:%d: %s\n", NR, reason > "/dev/stderr"
    failed = 1
    exit 1
}

function row(path, value, comment) {
    if (!in_table) {
        print "| Value | Default | What it is |\n|---|---|---|"
        in_table = 1
    }
    gsub(/\|/, "\\|", comment)
    gsub(/\|/, "\\|", value)
    printf "| `%s` | %s | %s |\n", path, value == "" ? "" : "`" value "`", comment
}

/^[ \t]*$/ { comment = ""; next }

/^ *# / {
    line = $0
    sub(/^ *# /, "", line)
    comment = comment == "" ? line : comment " " line
    next
}

/^ *[A-Za-z0-9]+:( |$)/ {
    match($0, /^ */)
    depth = RLENGTH / 2
    key = $1
    sub(/:$/, "", key)
    value = $0
    sub(/^ *[A-Za-z0-9]+: */, "", value)
    if (comment == "") fail("\"" key "\" has no comment")
    if (depth > last_depth + 1 || depth != int(depth)) fail("\"" key "\" is not indented by two spaces a level")
    names[depth] = key
    path = names[0]
    for (i = 1; i <= depth; i++) path = path "." names[i]
    if (value == "" && depth == 0) {
        printf "\n### `%s`\n%s\n\n", key, comment
        in_table = 0
    } else {
        row(path, value, comment)
    }
    last_depth = depth
    comment = ""
    next
}

{ fail("neither a comment nor a key with its value on one line: " $0) }

END { exit failed }
