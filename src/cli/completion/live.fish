
# What is in the store: asked of the program.
complete -c rootling -k -a '(rootling complete-words -- (commandline -opc) (commandline -ct) 2> /dev/null)'
