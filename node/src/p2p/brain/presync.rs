//! Headers with too little work, checked twice before they are stored.
