# What is in the store: asked of the program; where it has nothing, commands and flags.
_rootling_live() {
    local -a found
    found=("${(@f)$("${words[1]}" complete-words -- "${(@)words[1,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
    found=("${(@)found:#}")
    if (( $#found )); then
        compadd -a found
    else
        _rootling "$@"
    fi
}

