
# What is in the store: asked of the program, for the word as it was typed. Readline takes words apart at characters that references
# are made of, such as `@`, and wants only what comes behind the last of them.
_rootling_live() {
    _rootling "$@"
    local line=${COMP_LINE:0:COMP_POINT} last kept
    local -a words found
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    last=${words[-1]}
    mapfile -t found < <("${words[0]}" complete-words -- "${words[@]}" 2> /dev/null)
    [[ ${#found[@]} -eq 0 ]] && return
    kept=${last%"${last##*["$COMP_WORDBREAKS"]}"}
    COMPREPLY=("${found[@]#"$kept"}")
}
complete -F _rootling_live -o bashdefault -o default rootling
